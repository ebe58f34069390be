"""The demo: engines that learn from real sensors, two kills with SIGKILL, and the proof that nothing is lost.

Read it in this order: `learner` is what an engine does with its rows; `engine` is the process that embeds
the library, an example in itself; `records` is what such a process writes down; `node` holds one of them;
`director` plays the script; `report` draws the conclusions from the records; `view` shows them live.
"""
