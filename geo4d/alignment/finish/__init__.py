"""What is said of the result, computed last: on the final cameras and the final depth."""
