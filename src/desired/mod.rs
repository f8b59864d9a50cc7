//! Desired pods: the merged view of all sources, and the mirror pods of static ones.
