# Both programs, for the CPU:
#   docker build -t registry.example.org/polyrank:0.1.0 .
# The Job of examples/kubernetes needs python3 as well.
FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-minimal \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /source/target/release/polyrank /source/target/release/polyrank-train /usr/local/bin/
# A user that owns nothing. The cache must be a volume that it can write.
USER 10001:10001
ENV POLYRANK_HOME=/cache
ENTRYPOINT ["polyrank"]
CMD ["--help"]
