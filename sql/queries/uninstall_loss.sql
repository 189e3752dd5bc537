-- What uninstall deletes and init does not create again. Each is counted up to 10,001.
select (select count(*) from (select from bridge.outbox limit 10001) as counted) as outbox_count,
       (select count(*) from (select from bridge.delivery_queue limit 10001) as counted) as pending_count,
       (select count(*) from (select from bridge.webhooks limit 10001) as counted) as webhook_count,
       (select count(*) from (select from bridge.api_tokens limit 10001) as counted) as token_count,
       (select count(*) from bridge.capture_rules) as trigger_count;
