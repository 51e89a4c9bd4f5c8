"""Connect railcore to the world: HTTP, gateways, the sandbox, the command line."""
