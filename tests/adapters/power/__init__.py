"""Power losses for the store's tests: every write is recorded, and what a disk may make of it is rebuilt."""
