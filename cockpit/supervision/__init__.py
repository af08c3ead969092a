"""One machine's processes under supervisord: what runs (programs), how it is told (configuration), talking to it
(control), one `up` per home (claim), start and stop in order (lifecycle), and what they say (logs)."""
