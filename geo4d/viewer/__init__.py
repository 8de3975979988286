"""Pictures and interactive views of a reconstruction."""
