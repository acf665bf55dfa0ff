"""What does Sluice cost, and is it as good as it says? Each benchmark prints its table."""
