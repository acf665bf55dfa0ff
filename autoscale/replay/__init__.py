"""What would have happened, call by call, with the gateway's own admission, routing and ledger?

Virtual time: arrivals, engine steps and ticks of the autoscaler are taken in order; nothing waits.
Replicas are the pure engine of `backends.simulated`, the ledger is the gateway's book of slots.
"""
