"""The loss as a function of the parameters that move, and everything it is built from."""
