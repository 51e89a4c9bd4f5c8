"""The five rails, written once as flows, and the two drivers that run them."""
