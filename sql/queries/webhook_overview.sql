-- Every webhook and how it is doing, for operators.
select w.id, w.name, w.url, w.event_type, h.state, h.pending,
       h.success_rate_hour::double precision as success_rate_hour
from bridge.webhooks w
join bridge.webhook_health h on h.webhook_id = w.id
order by w.id;
