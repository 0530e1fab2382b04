//! Creates metric families. Creating a family also registers it, so no family can be missing from the registry.

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// A label of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The label's name.
    pub name: &'static str,
    /// The label's values, if the metrics module defines them. The list is empty if the values are names of another module's
    /// closed list.
    pub values: &'static [&'static str],
}

/// A registered family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// The name of the metric.
    pub name: &'static str,
    /// The labels of the metric.
    pub labels: Vec<Label>,
}

/// The registry while the areas declare their families.
#[derive(Debug, Default)]
pub(super) struct Families {
    registry: Registry,
    list: Vec<Family>,
}

// === impl Label ===

impl Label {
    /// A label with these values.
    pub(super) const fn closed(name: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, values }
    }

    /// A label whose values are the names of another module's closed list.
    pub(super) const fn open(name: &'static str) -> Self {
        Self { name, values: &[] }
    }
}

// === impl Families ===

impl Families {
    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("a valid name");
        self.register(name, &[], counter)
    }

    pub(super) fn counters(&mut self, name: &'static str, help: &str, labels: &[Label]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), &names(labels)).expect("a valid name");
        self.register(name, labels, counters)
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("a valid name");
        self.register(name, &[], gauge)
    }

    pub(super) fn gauges(&mut self, name: &'static str, help: &str, labels: &[Label]) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), &names(labels)).expect("a valid name");
        self.register(name, labels, gauges)
    }

    /// A gauge of seconds that may have a fraction.
    pub(super) fn seconds(&mut self, name: &'static str, help: &str) -> Gauge {
        let gauge = Gauge::new(name, help).expect("a valid name");
        self.register(name, &[], gauge)
    }

    pub(super) fn histogram(&mut self, name: &'static str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = Histogram::with_opts(options).expect("a valid name");
        self.register(name, &[], histogram)
    }

    pub(super) fn histograms(
        &mut self,
        name: &'static str,
        help: &str,
        buckets: &[f64],
        labels: &[Label],
    ) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms = HistogramVec::new(options, &names(labels)).expect("a valid name");
        self.register(name, labels, histograms)
    }

    pub(super) fn finish(self) -> (Registry, Vec<Family>) {
        (self.registry, self.list)
    }

    fn register<T: Collector + Clone + 'static>(&mut self, name: &'static str, labels: &[Label], family: T) -> T {
        self.registry.register(Box::new(family.clone())).expect("every name is registered once");
        self.list.push(Family { name, labels: labels.to_vec() });
        family
    }
}

fn names(labels: &[Label]) -> Vec<&'static str> {
    labels.iter().map(|label| label.name).collect()
}
