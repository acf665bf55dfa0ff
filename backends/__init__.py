"""What can serve: replicas, their engines, their load and their capacity."""
