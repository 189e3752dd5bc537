-- Tries to become the one drainer; the connection stays it until it ends.
select bridge.lead() as leading;
