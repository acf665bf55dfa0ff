"""What does a relayed token cost in CPU and in time, beside other gateways in the same run?"""
