"""One class of promises for each port; every implementation, ours or a stranger's, passes it."""
