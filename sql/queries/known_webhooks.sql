-- URL and event type of every webhook, to skip duplicates on import.
select url, event_type from bridge.webhooks;
