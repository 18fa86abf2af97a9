"""Real servers for the tests: Apache Kafka, Elasticsearch and OpenSearch as Java processes on free loopback ports."""
