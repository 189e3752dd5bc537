-- Lists the webhooks that have deliveries to claim, however many.
select w.id
from bridge.webhooks w
where w.is_active and w.paused_at is null
  and exists (
      select from bridge.delivery_queue q
      where q.webhook_id = w.id and q.next_attempt_at <= now())
order by w.id;
