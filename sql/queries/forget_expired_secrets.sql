-- Deletes previous secrets whose overlap after a rotation has ended.
update bridge.webhooks
set previous_secret = null, previous_secret_expires_at = null
where previous_secret_expires_at <= now()
returning id;
