-- Returns texts, in order, without the characters that the database's encoding does not have.
-- $1 the texts in UTF-8
select bridge.storable_text(given.utf8) as text
from unnest($1::bytea[]) with ordinality as given(utf8, place)
order by given.place;
