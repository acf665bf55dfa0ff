"""How many replicas of which model on which hardware: observe, forecast, plan, actuate."""
