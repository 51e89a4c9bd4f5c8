"""Execute payments over any rail so that no answer, late, lost or twice, ever costs money."""
