"""The same work on other systems, three processes each on this machine, ours and theirs in turns.

``system`` says what is asked of each; ``ours``, ``redis``, ``etcd``, ``nats`` and ``raft`` do it;
``__main__`` takes the figures.
"""
