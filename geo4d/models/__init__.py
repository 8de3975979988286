"""Networks: they know channels, not meanings."""
