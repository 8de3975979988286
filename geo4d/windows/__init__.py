"""Which frames the network sees together, and running it over them."""
