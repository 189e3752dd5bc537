-- Counts the selected deliveries: pending; finished and resendable; and gone, because their webhook or
-- event no longer exists.
-- $1 delivery ids
select count(*) filter (where is_pending) as pending,
       count(*) filter (where not is_pending and can_be_sent) as finished,
       count(*) filter (where not is_pending and not can_be_sent) as gone
from (
    select true as is_pending, true as can_be_sent
    from bridge.delivery_queue
    where id = any ($1::bigint[])
    union all
    select false,
           exists (select from bridge.webhooks w where w.id = l.webhook_id)
           and exists (select from bridge.events e where e.id = l.event_id and e.recorded_at = l.event_recorded_at)
    from bridge.delivery_log l
    where id = any ($1)
) as chosen;
