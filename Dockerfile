# Stages: toolchain -> builder -> runtime (the service, the default), and toolchain -> test (the tests' image).
# Any builder runs it, also the one of docker-compose 1.29. That one has no cache mounts, so the dependencies are
# a layer of their own, which a change of the sources leaves alone; and it builds every stage above the wanted
# one, so the tests' stage comes last.

FROM rust:1.95-slim-bookworm AS toolchain
# The allocator is built with make.
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ENV SQLX_OFFLINE=true

# Without the embedded servers of `customers dev`, and without the line tables and the symbols.
FROM toolchain AS builder
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=symbols
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY benches benches
RUN mkdir src && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
    && cargo build --release --locked --no-default-features
COPY . .
# Newer than the empty sources above, whatever the times of the files are.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --no-default-features

FROM debian:bookworm-slim AS runtime
# A volume that is mounted over the folder takes over its owner.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/customers customers \
    && install -d -o customers -g customers -m 0700 /var/lib/customers /var/lib/customers/keys
COPY --from=builder /src/target/release/customers /usr/local/bin/customers
USER 10001:10001
WORKDIR /var/lib/customers
ENV CUSTOMERS_LISTEN=0.0.0.0:8080 CUSTOMERS_KEYS_DIR=/var/lib/customers/keys
EXPOSE 8080
ENTRYPOINT ["customers"]
CMD ["serve"]

# The tests start private servers too, and PostgreSQL refuses root.
FROM toolchain AS test
COPY script/bootstrap script/
RUN script/bootstrap && rustup component add clippy rustfmt \
    && useradd --create-home tester && mkdir /target && chown tester /src /target
COPY --chown=tester . .
ENV CARGO_TARGET_DIR=/target
USER tester
CMD ["script/test"]

# What `docker build` without --target makes.
FROM runtime AS default
