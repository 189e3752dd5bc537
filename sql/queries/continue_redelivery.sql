-- Moves the next batch of a running redelivery to the queue. No row if none is due.
select webhook_id, matched, requeued, state
from bridge.continue_redelivery();
