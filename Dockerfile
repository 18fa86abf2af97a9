# Soundmill and all it needs, for the head and the workers of a Ray cluster and for a single machine.
#
#   docker build -t soundmill .
#   docker run --rm --shm-size=4g -v "$PWD/music:/in:ro" -v "$PWD/out:/out" soundmill \
#     python /opt/soundmill/jobs/extract_features.py source.uri=/in output.uri=/out/music
#
# The karaoke service is a target of its own, which deploy/karaoke-compose.yaml and deploy/karaoke-kubernetes.yaml run:
#
#   docker build --target karaoke-service -t soundmill-karaoke .
#
# A bare Python rather than rayproject/ray: that image holds a Ray of its own in another Python, and the lock has
# the one we test with. CUDA comes with torch's wheels, so a GPU needs nothing but the host's driver.
FROM python:3.11-slim AS soundmill

# What the launchers use inside the image: KubeRay's probes wget, the cluster launcher rsync and ssh.
RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/soundmill

# The 5 GB come first and are built again only when the lock changes: the package is a stand-in until it is copied.
# They go to /usr/local, which is on the PATH of the login shells that both launchers start Ray in.
COPY pyproject.toml constraints.txt ./
RUN mkdir pipeline soundmill && touch pipeline/__init__.py soundmill/__init__.py README.md \
    && python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt -e .

COPY pipeline pipeline
COPY jobs jobs
COPY conf conf
COPY soundmill soundmill

ENV SOUNDMILL_WEIGHTS=/opt/soundmill/weights
RUN python jobs/models.py fetch spleeter-2stems musicnn beatnet && chown -R 1000 weights

# A number, so that Kubernetes can see that it is not root. The two folders are there for the cluster launcher, which
# mounts into them: Docker would make them as root.
RUN useradd --create-home --uid 1000 soundmill
USER 1000
ENV HOME=/home/soundmill
WORKDIR /home/soundmill
RUN mkdir soundmill .ray

# No entry point: the cluster launcher starts `bash` in the image and must get one.
CMD ["python", "/opt/soundmill/jobs/extract_features.py", "--help"]


FROM soundmill AS karaoke-service

# tini takes in the children of workers that were ended, and passes signals on: SIGTERM lets songs in hand be finished.
USER root
RUN apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*
# Clients of Kafka, Elasticsearch and OpenSearch, the health pages and the metrics.
RUN cd /opt/soundmill \
    && python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt -e '.[opensearch]' \
    && mkdir /state && chown 1000 /state
USER 1000

# Updates of the search index that wait are kept here: a volume that stays is worth having.
ENV SERVICE_STATE_DIR=/state
VOLUME /state
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/healthz"]

ENTRYPOINT ["tini", "--", "python", "/opt/soundmill/jobs/karaoke_service.py"]
# Workers are processes beside the service rather than actors of Ray: one container needs no cluster.
CMD ["service.workers=inline", "service.health_host=0.0.0.0"]


# What is built where no target is named.
FROM soundmill
