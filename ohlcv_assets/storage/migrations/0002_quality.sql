-- What is known about the bars: how the stream was connected, what was repaired, the ledger, the findings.
-- All of it is append-only, as the bars are: what is said later stands beside what was said before.

-- The connection log ------------------------------------------------------------------------------------------------

create table public.stream_minutes (
    market               text              not null,
    minute_ms            bigint            not null check (minute_ms % 60000 = 0),
    run_id               text              not null,
    shard                text              not null,
    connected_s          double precision  not null check (connected_s between 0 and 60),
    bars_expected        bigint            not null check (bars_expected >= 0),
    bars_present         bigint            not null check (bars_present >= 0),
    knowledge_timestamp  timestamptz       not null default clock_timestamp(),
    primary key (minute_ms, market, run_id, shard)
);

comment on table public.stream_minutes is
    'One row a minute and streaming run: how many seconds of it the WebSocket was open, and what came.';

-- Repairs -----------------------------------------------------------------------------------------------------------

create table public.repairs (
    repair               bigint       generated always as identity primary key,
    market               text         not null,
    symbol               text         not null,
    "timestamp"          bigint       not null check ("timestamp" % 60000 = 0),
    side                 text         not null check (side in ('streamed', 'fetched', 'none')),
    decision             text         not null check (decision in (
        'streamed_was_wrong', 'fetched_was_wrong', 'streamed_was_missing', 'fetched_was_missing', 'undecided',
        'needs_confirmation'
    )),
    reason               text         not null,
    -- json and not jsonb: what was compared is kept letter for letter.
    sources              json         not null,
    before               json,
    after                json,
    run_id               text         not null,
    knowledge_timestamp  timestamptz  not null default clock_timestamp()
);

comment on table public.repairs is 'Every decision about a bar on which the captures did not agree, with what was compared.';

-- A run that is not sure whether it was heard says the same again, and is taken at its word once.
create unique index repairs_once on public.repairs (
    "timestamp", market, symbol, run_id, side, decision,
    md5(sources::text || coalesce(before::text, '-') || coalesce(after::text, '-'))
);

-- The ledger --------------------------------------------------------------------------------------------------------

create table public.ledger_days (
    version              bigint       generated always as identity primary key,
    market               text         not null,
    day                  date         not null,
    start_ms             bigint       not null check (start_ms % 60000 = 0),
    end_ms               bigint       not null check (end_ms % 60000 = 0),
    universe             text         not null,
    bars_expected        bigint       not null check (bars_expected > 0),
    run_id               text         not null,
    -- Made by the writer before its first try, so that a second one finds what the first has done.
    receipt              uuid         not null,
    knowledge_timestamp  timestamptz  not null default clock_timestamp(),
    unique (receipt, start_ms),
    constraint within_the_day check (
        start_ms < end_ms
        and start_ms >= (day - date '1970-01-01') * bigint '86400000'
        and end_ms <= (day - date '1970-01-01' + 1) * bigint '86400000'
    ),
    constraint symbols_times_minutes check (bars_expected % ((end_ms - start_ms) / 60000) = 0)
);

comment on table public.ledger_days is
    'Versions of the ledger of a UTC day or a part of it. Of each minute the highest version that speaks of it counts.';

create index ledger_days_newest on public.ledger_days (market, day, version);

create table public.ledger_ranges (
    version   bigint  not null references public.ledger_days,
    symbol    text    not null,
    start_ms  bigint  not null check (start_ms % 60000 = 0),
    end_ms    bigint  not null check (end_ms % 60000 = 0),
    state     text    not null check (state in (
        'confirmed', 'repaired', 'streamed_only', 'fetched_only', 'differing', 'halted', 'not_listed', 'missing'
    )),
    cause     text,
    proof     json,
    primary key (version, symbol, start_ms),
    constraint not_empty check (start_ms < end_ms)
);

comment on table public.ledger_ranges is
    'What a version of the ledger says: every expected minute of every symbol in exactly one range [start_ms, end_ms).';

-- A version is whole: its ranges come in one statement, cover symbols times minutes exactly once, and none follows.
create function public.ledger_ranges_are_whole() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    wrong record;
begin
    select d.version, d.day, d.bars_expected, r.bars, r.crossing into wrong
    from (
        select version,
            sum(end_ms - start_ms) / 60000 as bars,
            count(distinct symbol) as symbols,
            min(start_ms) as first_ms,
            max(end_ms) as last_ms,
            bool_or(start_ms < end_before_ms) as crossing
        from (
            select *, lag(end_ms) over (partition by version, symbol order by start_ms) as end_before_ms
            from public.ledger_ranges
            where version in (select version from stored)
        ) as ordered
        group by version
    ) as r
    join public.ledger_days as d on d.version = r.version
    where r.bars <> d.bars_expected
        or r.symbols <> d.bars_expected / ((d.end_ms - d.start_ms) / 60000)
        or r.first_ms < d.start_ms or r.last_ms > d.end_ms
        or r.crossing
    limit 1;
    if found then
        raise exception 'the ranges of the ledger of % hold % minutes, expected % (overlapping: %)',
            wrong.day, wrong.bars, wrong.bars_expected, coalesce(wrong.crossing, false)
            using errcode = 'check_violation';
    end if;
    return null;
end
$$;

create trigger ledger_ranges_are_whole after insert on public.ledger_ranges
referencing new table as stored for each statement execute function public.ledger_ranges_are_whole();

create function public.ledger_day_has_ranges() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from public.ledger_ranges where version = new.version) then
        raise exception 'the ledger of % has no ranges', new.day using errcode = 'check_violation';
    end if;
    return null;
end
$$;

create constraint trigger ledger_day_has_ranges after insert on public.ledger_days
deferrable initially deferred for each row execute function public.ledger_day_has_ranges();

-- The ranges that counted at a moment, each cut to the part of its version that no later one had spoken of.
-- A condition on market and day of a query over it reaches the indexes, for PostgreSQL inlines it.
create function public.ledger_as_of(known_at timestamptz) returns table (
    market text, day date, version bigint, symbol text, start_ms bigint, end_ms bigint, state text, cause text, proof json
)
language sql stable parallel safe
as $$
    select
        d.market, d.day, d.version, r.symbol, greatest(r.start_ms, lower(part)), least(r.end_ms, upper(part)),
        r.state, r.cause, r.proof
    from public.ledger_days as d
    cross join lateral unnest(
        int8multirange(int8range(d.start_ms, d.end_ms)) - coalesce(
            (
                select range_agg(int8range(later.start_ms, later.end_ms))
                from public.ledger_days as later
                where later.market = d.market and later.day = d.day and later.version > d.version
                    and later.knowledge_timestamp <= known_at
            ),
            int8multirange()
        )
    ) as part
    join public.ledger_ranges as r
        on r.version = d.version and r.start_ms < upper(part) and r.end_ms > lower(part)
    where d.knowledge_timestamp <= known_at
$$;

create view public.ledger as
select ranges.market, ranges.symbol, minute_ms as "timestamp", ranges.state, ranges.cause, ranges.proof, ranges.day,
    ranges.version
from public.ledger_as_of('infinity') as ranges
cross join lateral generate_series(ranges.start_ms, ranges.end_ms - 60000, 60000) as minute_ms;

comment on view public.ledger is
    'One row a symbol and minute, by the newest versions. Ask with market and day: they are what the index knows.';

create view public.ledger_counts as
select market, day, state, (sum(end_ms - start_ms) / 60000)::bigint as bars
from public.ledger_as_of('infinity')
group by market, day, state;

comment on view public.ledger_counts is 'How many minutes of a market and UTC day are in each state, by the newest versions.';

-- Findings ----------------------------------------------------------------------------------------------------------

create table public.findings (
    finding              bigint       generated always as identity primary key,
    fingerprint          text         not null unique,
    market               text,
    kind                 text         not null,
    sentence             text         not null,
    detail               json         not null,
    run_id               text         not null,
    receipt              uuid         not null,
    knowledge_timestamp  timestamptz  not null default clock_timestamp()
);

comment on table public.findings is 'What was found, once each: whoever stores a fingerprint first tells it to people.';

-- Partitions of bars ------------------------------------------------------------------------------------------------

-- As 0001 made it, with another question for "is it there": `to_regclass` answers from the session's cache of names,
-- which an advisory lock does not refresh. Whoever had waited for the first writer of a day was told again that there
-- is no partition, and failed at making it. A query of pg_class sees what was committed before it began.
create or replace function public.ensure_bar_partitions(day_starts_ms bigint[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    day_ms constant bigint := 86400000;
    day_start_ms bigint;
    partition text;
    is_there constant text := 'select exists ('
        'select from pg_inherits as i join pg_class as c on c.oid = i.inhrelid '
        'where c.relname = $1 and c.relnamespace = ''public''::regnamespace and i.inhparent = ''public.bars''::regclass)';
    there boolean;
begin
    foreach day_start_ms in array day_starts_ms loop
        if day_start_ms % day_ms <> 0 or day_start_ms not between 1262304000000 and 4102444800000 then
            raise exception '% is no start of a UTC day in milliseconds', day_start_ms using errcode = '22023';
        end if;
        partition := 'bars_' || to_char(to_timestamp(day_start_ms / 1000) at time zone 'UTC', 'YYYYMMDD');
        execute is_there into there using partition;
        continue when there;
        perform pg_advisory_xact_lock(hashtextextended('ohlcv_assets.partitions', 0));
        execute is_there into there using partition;
        continue when there;
        execute format('create table public.%I (like public.bars including all)', partition);
        execute format(
            'alter table public.bars attach partition public.%I for values from (%s) to (%s)',
            partition, day_start_ms, day_start_ms + day_ms
        );
    end loop;
end
$$;

-- Rights ------------------------------------------------------------------------------------------------------------

revoke all on public.stream_minutes, public.repairs, public.ledger_days, public.ledger_ranges, public.findings
    from public;
grant select on public.stream_minutes, public.repairs, public.ledger_days, public.ledger_ranges, public.findings,
    public.ledger, public.ledger_counts
    to ohlcv_writer, ohlcv_reader;
-- Neither update nor delete; knowledge_timestamp, repair, version and finding are the database's own to set.
grant insert (market, minute_ms, run_id, shard, connected_s, bars_expected, bars_present)
    on public.stream_minutes to ohlcv_writer;
grant insert (market, symbol, "timestamp", side, decision, reason, sources, before, after, run_id)
    on public.repairs to ohlcv_writer;
grant insert (market, day, start_ms, end_ms, universe, bars_expected, run_id, receipt)
    on public.ledger_days to ohlcv_writer;
grant insert (version, symbol, start_ms, end_ms, state, cause, proof) on public.ledger_ranges to ohlcv_writer;
grant insert (fingerprint, market, kind, sentence, detail, run_id, receipt) on public.findings to ohlcv_writer;
