# Both programs, for the CPU. Needs BuildKit, which Docker uses since version 23:
#   docker build -t registry.example.org/polyrank:0.1.0 .
FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
# The caches keep dependencies, downloaded and compiled, from one build to the next. Cargo compares times of files: `touch` makes the
# sources newer than what the cache has of another checkout. The cache is not part of the image, so the programs are copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target,sharing=locked \
    find . -path ./target -prune -o -type f -exec touch {} + \
    && cargo build --release --locked \
    && install -D --target-directory=/built target/release/polyrank target/release/polyrank-train

FROM debian:bookworm-slim
# The Job of examples/kubernetes runs python3. A named volume takes the owner of /cache when it is first mounted there; any other volume
# must be writable by user 10001.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 10001 -g 10001 /cache
COPY --from=build /built/ /usr/local/bin/
USER 10001:10001
# Inside a container, a server on 127.0.0.1 could not be reached.
ENV POLYRANK_HOME=/cache POLYRANK_HOSTNAME=0.0.0.0
EXPOSE 8080
ENTRYPOINT ["polyrank"]
CMD ["--help"]
