-- Filters of webhooks become conditions of linear cost. The drain evaluates them for every event, and
-- jsonpath is a programming language: some filters take exponential time.

create function bridge.filter_problem(p_filter text) returns text
language plpgsql immutable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    c_most_characters constant integer := 2000;
    -- Strings and quoted keys can contain anything, so they are emptied first.
    c_quoted constant text := '"(?:[^"\\]|\\.)*"';
    -- A path without its $ or @.
    c_steps constant text := '(?:\.""|\.\*|\[(?:\*|last|[0-9]+)\])*(?:\.(?:size|type)\(\))?';
    c_constant constant text := '(?:""|-?[0-9.]+|true|false|null)';
    c_comparison constant text := ' (?:==|!=|<=?|>=?) ';
    -- %1$s is $ or @.
    c_condition constant text := concat(
        '%1$s', c_steps, c_comparison, c_constant, '|', c_constant, c_comparison, '%1$s', c_steps, '|',
        '%1$s', c_steps, ' starts with ""|exists \(%1$s', c_steps, '\)');
    c_joined constant text := '((?:[C ()!&|]|is unknown)+)';
    v_bare text := regexp_replace(left(p_filter, c_most_characters + 1), c_quoted, '""', 'g');
    v_text text;
    v_left text;
    v_count integer;
    v_most integer;
begin
    -- Before PostgreSQL parses the text: it also compiles the patterns of like_regex, and a pattern of 20
    -- characters can take minutes. Comments and escapes could hide one. And it writes 1e131071 in 131,072 digits.
    if length(p_filter) > c_most_characters then
        return format('must not be longer than %s characters', c_most_characters);
    elsif v_bare ~* 'like_regex' collate "C" then
        return 'must not use like_regex; compare with == or starts with';
    elsif v_bare ~ '\\|/\*' then
        return 'must not have a comment, or a backslash outside quotes';
    elsif v_bare ~* '\m[0-9][0-9_]*\.?[0-9_]*e[-+]?[0-9_]{4}' collate "C" then
        return 'must not have exponents of more than three digits';
    end if;
    begin
        v_text := p_filter::jsonpath;
    exception when others then
        return 'must be a jsonpath: ' || sqlerrm;
    end;
    if length(v_text) > c_most_characters then
        return format(
            'must not be longer than %s characters as PostgreSQL writes it; it has %s', c_most_characters, length(v_text));
    end if;

    -- PostgreSQL writes quotes and parentheses: ($."a" == 1 && !($."b" == 2)). Replace each condition by
    -- C. The syntax is correct, so the filter is allowed if only operators remain.
    v_bare := regexp_replace(v_text, c_quoted, '""', 'g');
    v_left := regexp_replace(v_bare, format(c_condition, '@'), 'C', 'g');
    v_left := regexp_replace(v_left, format('exists \(\$%s\?\(%s\)\)', c_steps, c_joined), 'C(\1)', 'g');
    v_left := regexp_replace(v_left, format(c_condition, '\$'), 'C', 'g');
    if v_left !~ format('^(?:strict )?%s$', c_joined) then
        return case
            when v_bare like '%**%' then 'must not contain **; name the keys, or use .* for one level'
            when v_bare like '%$""%' then 'must not have variables; a field is written $.name'
            when v_bare ~ '\.(?!(?:size|type)\(\)[^.[?])[a-z_]+\(' then
                'must not call methods, except .size() and .type() at the end of a path'
            when v_bare ~ ' [-+*/%] |[-+][$@(]' then 'must not calculate'
            when v_bare ~ '\[(?!(?:\*|last|[0-9]+)\])' then 'must have one number, last or * in [ ]'
            when v_left like '%?(%' then
                'must use ? only at the end of the path in exists(), with conditions on @ alone'
            else 'must compare one path with one constant, as in $.amount_kopeks >= 100000'
        end;
    end if;

    -- A path can lead to every element of an array, even without [*]: jsonpath unwraps arrays unless it
    -- is strict. A condition on a million elements takes 50 ms and 60 MB; an index or a method, as much
    -- again. In strict mode and without *, a path leads to at most one value.
    v_most := case when v_bare like 'strict %' and v_bare not like '%*%' then 60 else 5 end;
    v_count := length(regexp_replace(v_left, '[^C]', '', 'g')) + length(regexp_replace(v_bare, '[^*]', '', 'g'))
        + 2 * cardinality(regexp_split_to_array(v_bare, '\[(?!\*)|\(\)')) - 2;
    if v_count > v_most then
        return format(
            'must have at most %s conditions, counting [*] and .* as one and every index or method as two; it has %s%s',
            v_most, v_count, case when v_most < 60 then ' (60 are allowed in strict mode without [*] and .*)' end);
    elsif cardinality(regexp_split_to_array(v_left, '!|is unknown')) > 11 then
        return 'must have at most ten ! and is unknown';
    end if;
    return null;
end
$$;
comment on function bridge.filter_problem(text) is
    'Returns why no webhook may have this filter; null if one may. docs/sql.md describes what is allowed.';

create function bridge.to_filter(p_filter text) returns jsonpath
language plpgsql immutable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    v_problem text := bridge.filter_problem(p_filter);
begin
    if v_problem is not null then
        raise 'filter: %', v_problem
            using errcode = 'check_violation', column = 'filter', constraint = 'webhooks_filter_allowed';
    end if;
    return p_filter::jsonpath;
end
$$;
comment on function bridge.to_filter(text) is
    'Returns a webhook''s filter from its text, or raises its filter_problem. Text of others must not be cast to jsonpath in any other way: parsing can take minutes.';

create function bridge.check_filter() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform bridge.to_filter(new.filter::text);
    return null;
end
$$;
comment on function bridge.check_filter() is
    'Trigger: an active webhook''s filter has no filter_problem. As a check constraint, this would add 0.2 ms to every update of the counters.';
create trigger check_new_filter
    after insert on bridge.webhooks
    for each row when (new.is_active and new.filter is not null)
    execute function bridge.check_filter();
create trigger check_filter
    after update of is_active, filter on bridge.webhooks
    for each row when (
        new.is_active and new.filter is not null
        and (not old.is_active or old.filter::text is distinct from new.filter::text))
    execute function bridge.check_filter();
-- Also for sessions that replicate or restore.
alter table bridge.webhooks enable always trigger check_new_filter, enable always trigger check_filter;

alter table bridge.webhooks
    drop constraint webhooks_filter_without_variables,
    drop constraint webhooks_filter_bounded,
    drop constraint webhooks_filter_without_back_references;
comment on column bridge.webhooks.filter is
    'A condition on the payload, such as $.amount_kopeks >= 100000. Only events for which it is true are delivered; an error counts as false. filter_problem says what is not allowed.';

-- Webhooks whose filters are no longer allowed stop until their filters are changed.
with disabled as (
    update bridge.webhooks
    set is_active = false,
        disabled_reason = 'its filter ' || bridge.filter_problem(filter::text),
        updated_at = now()
    where is_active and bridge.filter_problem(filter::text) is not null
    returning id, name, event_type, disabled_reason
)
insert into bridge.outbox (event_type, payload)
select 'webhook.disabled',
       jsonb_build_object('webhook_id', id, 'name', name, 'event_type', event_type, 'reason', disabled_reason)
from disabled;

revoke execute on all functions in schema bridge from public;
