//! Probes of running containers: verdicts, schedule, checks.
