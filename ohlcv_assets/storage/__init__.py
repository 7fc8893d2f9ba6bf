"""Where bars are kept: PostgreSQL for what is streamed, a lake of Parquet files for what is fetched.

Lives here: the embedded server and its supervisor, the tables and statements, the buffer on disk for when the server is
away, and the lake on a folder or S3. Does not: where bars come from (exchange/), or whether they are right (quality/).
"""
