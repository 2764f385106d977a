"""From the trigger to the pulse, as arithmetic: no threads, no devices, no clock of its own.

Everything here is told the time. The guard process runs it on the monotonic clock, the simulator on virtual time.
"""
