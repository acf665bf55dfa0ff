"""What waits: calls for a slot on a replica."""
