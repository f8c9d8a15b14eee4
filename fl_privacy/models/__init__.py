"""The networks under attack."""
