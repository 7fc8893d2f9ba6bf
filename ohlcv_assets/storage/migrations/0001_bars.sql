-- The bars as first captured, what later captures said otherwise, and the readings of both.
-- Columns of a bar: bars.py, in its order (a test compares them), then how it came and by which run.

create table public.bars (
    market                  text             not null,
    symbol                  text             not null,
    "timestamp"             bigint           not null,
    open                    double precision not null,
    high                    double precision not null,
    low                     double precision not null,
    close                   double precision not null,
    volume                  double precision not null,
    quote_volume            double precision not null,
    trade_count             bigint           not null,
    taker_buy_volume        double precision not null,
    taker_buy_quote_volume  double precision not null,
    end_download_timestamp  timestamptz      not null,
    knowledge_timestamp     timestamptz      not null default clock_timestamp(),
    channel                 text             not null,
    run_id                  text             not null,
    -- Time first: a minute of all symbols and the newest bar are one walk of the index, which is what is asked.
    constraint bars_pkey primary key ("timestamp", market, symbol),
    -- The invariants of bars.py, by their names. NaN is greater than every number here, so `< infinity` excludes it.
    constraint on_the_grid check ("timestamp" % 60000 = 0),
    constraint in_milliseconds check ("timestamp" between 1262304000000 and 4102444800000),
    constraint prices_positive check (
        open > 0 and high > 0 and low > 0 and close > 0
        and open < 'infinity' and high < 'infinity' and low < 'infinity' and close < 'infinity'
    ),
    constraint high_is_highest check (high >= open and high >= low and high >= close),
    constraint low_is_lowest check (low <= open and low <= high and low <= close),
    constraint amounts_not_negative check (
        volume >= 0 and quote_volume >= 0 and taker_buy_volume >= 0 and taker_buy_quote_volume >= 0
        and volume < 'infinity' and quote_volume < 'infinity'
        and taker_buy_volume < 'infinity' and taker_buy_quote_volume < 'infinity'
    ),
    constraint trade_count_not_negative check (trade_count >= 0),
    constraint no_trade_no_volume check (trade_count > 0 or (volume = 0 and quote_volume = 0)),
    constraint taker_part_of_whole check (
        taker_buy_volume <= volume and taker_buy_quote_volume <= quote_volume
    )
) partition by range ("timestamp");

comment on table public.bars is 'One row a bar, as first captured; never updated. One partition a UTC day.';

create table public.bar_revisions (
    like public.bars including defaults including constraints,
    reason    text   not null,
    revision  bigint generated always as identity primary key
);

comment on table public.bar_revisions is
    'Captures that differ from what was known: append-only. The highest revision of a key is its latest value.';

create index bar_revisions_key on public.bar_revisions ("timestamp", market, symbol, revision desc);

-- Every bar with the values that were known at a moment. Simple enough for PostgreSQL to inline, so that a condition
-- on "timestamp" of a query over it prunes partitions.
create function public.bars_as_of(known_at timestamptz) returns setof public.bars
language sql stable parallel safe
as $$
    select
        b.market, b.symbol, b."timestamp",
        coalesce(r.open, b.open), coalesce(r.high, b.high), coalesce(r.low, b.low), coalesce(r.close, b.close),
        coalesce(r.volume, b.volume), coalesce(r.quote_volume, b.quote_volume),
        coalesce(r.trade_count, b.trade_count),
        coalesce(r.taker_buy_volume, b.taker_buy_volume),
        coalesce(r.taker_buy_quote_volume, b.taker_buy_quote_volume),
        coalesce(r.end_download_timestamp, b.end_download_timestamp),
        coalesce(r.knowledge_timestamp, b.knowledge_timestamp),
        coalesce(r.channel, b.channel), coalesce(r.run_id, b.run_id)
    from public.bars as b
    left join (
        select distinct on ("timestamp", market, symbol) *
        from public.bar_revisions
        where knowledge_timestamp <= known_at
        order by "timestamp", market, symbol, revision desc
    ) as r on r."timestamp" = b."timestamp" and r.market = b.market and r.symbol = b.symbol
    where b.knowledge_timestamp <= known_at
$$;

create view public.bars_latest as select * from public.bars_as_of('infinity');

comment on view public.bars_latest is 'Every bar with the values that are known now.';

-- Partitions are made by whoever brings the first bar of a day. The caller may not create tables; this may. Made
-- apart and then attached: `create table .. partition of` would stop every reader and writer of bars for a moment.
create function public.ensure_bar_partitions(day_starts_ms bigint[]) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    day_ms constant bigint := 86400000;
    day_start_ms bigint;
    partition text;
begin
    foreach day_start_ms in array day_starts_ms loop
        if day_start_ms % day_ms <> 0 or day_start_ms not between 1262304000000 and 4102444800000 then
            raise exception '% is no start of a UTC day in milliseconds', day_start_ms using errcode = '22023';
        end if;
        partition := 'bars_' || to_char(to_timestamp(day_start_ms / 1000) at time zone 'UTC', 'YYYYMMDD');
        continue when exists (
            select from pg_inherits
            where inhrelid = to_regclass('public.' || partition) and inhparent = 'public.bars'::regclass
        );
        perform pg_advisory_xact_lock(hashtextextended('ohlcv_assets.partitions', 0));
        continue when exists (
            select from pg_inherits
            where inhrelid = to_regclass('public.' || partition) and inhparent = 'public.bars'::regclass
        );
        execute format('create table public.%I (like public.bars including all)', partition);
        execute format(
            'alter table public.bars attach partition public.%I for values from (%s) to (%s)',
            partition, day_start_ms, day_start_ms + day_ms
        );
    end loop;
end
$$;

-- Roles belong to the whole server, so another database's migration may be making them at this moment.
do $$
declare
    role_name text;
    -- From 16 on whoever creates a role is a member of it, but may not yet become it.
    membership text := case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end;
begin
    foreach role_name in array array['ohlcv_writer', 'ohlcv_reader'] loop
        begin
            if not exists (select from pg_roles where rolname = role_name) then
                execute format('create role %I nologin', role_name);
            end if;
        exception when duplicate_object or unique_violation then
            null;  -- it is there, which is all that was wanted
        end;
        -- A session of ours becomes one of them by `set role`.
        if not pg_has_role(current_user, role_name, membership) then
            begin
                execute format('grant %I to %I', role_name, current_user);
            exception when insufficient_privilege then
                raise exception 'role % was made by another login: let it be granted to %', role_name, current_user
                    using errcode = 'insufficient_privilege';
            end;
        end if;
    end loop;
end
$$;

revoke all on public.bars, public.bar_revisions from public;
revoke all on function public.ensure_bar_partitions(bigint[]) from public;
grant usage on schema public to ohlcv_writer, ohlcv_reader;
grant select on public.bars, public.bar_revisions, public.bars_latest, public.schema_migrations
    to ohlcv_writer, ohlcv_reader;
-- Neither update nor delete, and knowledge_timestamp and revision are the database's own to set.
grant insert (
    market, symbol, "timestamp", open, high, low, close, volume, quote_volume, trade_count, taker_buy_volume,
    taker_buy_quote_volume, end_download_timestamp, channel, run_id
) on public.bars to ohlcv_writer;
grant insert (
    market, symbol, "timestamp", open, high, low, close, volume, quote_volume, trade_count, taker_buy_volume,
    taker_buy_quote_volume, end_download_timestamp, channel, run_id, reason
) on public.bar_revisions to ohlcv_writer;
grant execute on function public.ensure_bar_partitions(bigint[]) to ohlcv_writer;
