# Stages: source -> test (the tests' image), source -> builder -> runtime (the service, the default).

FROM rust:1.95-slim-bookworm AS source
WORKDIR /src
ENV SQLX_OFFLINE=true
COPY . .

# The tests start private servers too, and PostgreSQL refuses root.
FROM source AS test
RUN script/bootstrap && rustup component add clippy rustfmt \
    && useradd --create-home tester && mkdir /target && chown -R tester /src /target
ENV CARGO_TARGET_DIR=/target
USER tester
CMD ["script/test"]

# Without the embedded servers of `customers dev`. The target folder is a cache of the builder, so the
# binary is copied out of it.
FROM source AS builder
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --no-default-features && cp target/release/customers /usr/local/bin/customers

FROM debian:bookworm-slim AS runtime
# A volume that is mounted over the folder takes over its owner.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/customers customers \
    && install -d -o customers -g customers -m 0700 /var/lib/customers /var/lib/customers/keys
COPY --from=builder /usr/local/bin/customers /usr/local/bin/customers
USER 10001:10001
WORKDIR /var/lib/customers
ENV CUSTOMERS_LISTEN=0.0.0.0:8080 CUSTOMERS_KEYS_DIR=/var/lib/customers/keys
EXPOSE 8080
ENTRYPOINT ["customers"]
CMD ["serve"]
