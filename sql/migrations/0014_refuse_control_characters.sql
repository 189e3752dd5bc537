-- Names that people read in a terminal or a log: without characters that control it.

create function bridge.without_controls(p_text text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select regexp_replace(
        p_text, '[\u0001-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]', '?', 'g')
$$;
comment on function bridge.without_controls(text) is
    'Replaces control characters, line separators and characters that change the direction of writing by ?.';
revoke execute on function bridge.without_controls(text) from public;

-- --- rows that already have them

-- In a URL, percent-encoding keeps the address.
do $$
declare
    v_webhook   record;
    v_character text;
begin
    for v_webhook in select id, url from bridge.webhooks where url <> bridge.without_controls(url) loop
        for v_character in
            select distinct c from regexp_split_to_table(v_webhook.url, '') as c
            where c <> bridge.without_controls(c)
        loop
            v_webhook.url := replace(
                v_webhook.url, v_character,
                upper(regexp_replace(encode(convert_to(v_character, 'UTF8'), 'hex'), '(..)', '%\1', 'g')));
        end loop;
        update bridge.webhooks set url = v_webhook.url where id = v_webhook.id;
    end loop;
end
$$;
update bridge.webhooks
set name = bridge.without_controls(name),
    event_type = bridge.without_controls(event_type),
    description = (
        select string_agg(
            case when c in (e'\t', e'\n', e'\r') then c else bridge.without_controls(c) end,
            '' order by place)
        from regexp_split_to_table(description, '') with ordinality as characters(c, place))
where name <> bridge.without_controls(name)
   or event_type <> bridge.without_controls(event_type)
   or translate(description, chr(9) || chr(10) || chr(13), '') <> bridge.without_controls(translate(description, chr(9) || chr(10) || chr(13), ''));
update bridge.api_tokens
set name = bridge.without_controls(name)
where name <> bridge.without_controls(name);

-- --- new rows

-- One regular expression, not the function: every update of a counter checks this. A description has
-- several lines.
alter table bridge.webhooks add constraint webhooks_texts_without_controls check (
    name || url || event_type || coalesce(translate(description, chr(9) || chr(10) || chr(13), ''), '')
    !~ '[\u0001-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]');
alter table bridge.api_tokens add constraint api_tokens_name_without_controls check (
    name !~ '[\u0001-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]');

-- Any session can set bridge.actor.
create or replace function bridge.audit(
    p_action text, p_target_id bigint, p_target text, p_changes jsonb
) returns void
language plpgsql
-- Roles that may change things may not change the record of it.
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_who jsonb;
begin
    begin
        v_who := nullif(current_setting('bridge.actor', true), '')::jsonb;
    exception when others then
        v_who := null; -- Not JSON: not set by pgbridge.
    end;
    if coalesce(v_who ->> 'via' not in ('api', 'console', 'cli'), true) then
        v_who := jsonb_build_object(
            'via', case when current_setting('application_name') = 'pgbridge' then 'bridge' else 'sql' end,
            'actor', current_setting('application_name'));
    end if;
    insert into bridge.audit_log (action, target_id, target, via, actor, address, changes)
    values (p_action, p_target_id, bridge.without_controls(p_target), v_who ->> 'via',
            coalesce(bridge.without_controls(v_who ->> 'actor'), ''),
            bridge.without_controls(v_who ->> 'address'), p_changes);
end
$$;
