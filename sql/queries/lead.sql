-- Tries to make this session the drainer, until it ends.
select bridge.lead() as leading;
