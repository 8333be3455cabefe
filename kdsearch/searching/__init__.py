"""The search: the only package that imports ray or optuna. It proposes, prices, trains on a cluster, stops early and remembers."""
