-- What is delivered where already.
select url, event_type from bridge.webhooks;
