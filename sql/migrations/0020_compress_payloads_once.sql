-- A payload arrives in the log as the outbox has stored it: compressed, unless that was in vain. To try
-- again would take most of the drain's time for a large one.
alter table bridge.events alter column payload set storage external;
