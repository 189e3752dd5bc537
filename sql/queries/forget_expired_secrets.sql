-- Forgets the old secrets of rotations whose overlap is over.
update bridge.webhooks
set previous_secret = null, previous_secret_expires_at = null
where previous_secret_expires_at <= now()
returning id;
