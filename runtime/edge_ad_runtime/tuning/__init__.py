"""Which engine options are the fastest for a bundle on this machine: measured once, kept in the state folder, used from
then on."""
