//! What schedulers with a memory share: steps in order, and the latest of some tensors.

use std::collections::VecDeque;

use burn::tensor::{Tensor, backend::Backend};

use crate::SchedulerError;

/// Lets steps come one after the other only.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order {
    next: usize,
}

impl Order {
    /// Begins at this index.
    pub(crate) fn begin(index: usize) -> Self {
        Self { next: index }
    }

    pub(crate) fn check(&self, index: usize, count: usize) -> Result<(), SchedulerError> {
        check_index(index, count)?;
        match index == self.next {
            true => Ok(()),
            false => Err(SchedulerError::StepOrder {
                index,
                next: self.next,
            }),
        }
    }

    pub(crate) fn advance(&mut self) {
        self.next += 1;
    }
}

/// There must be such a step.
pub(crate) fn check_index(index: usize, count: usize) -> Result<(), SchedulerError> {
    match index < count {
        true => Ok(()),
        false => Err(SchedulerError::StepIndex { index, count }),
    }
}

/// A run of two evaluations per step can begin at every other index.
pub(crate) fn check_begin(index: usize, count: usize) -> Result<(), SchedulerError> {
    check_index(index, count)?;
    match index.is_multiple_of(2) {
        true => Ok(()),
        false => Err(SchedulerError::BeginIndex {
            index,
            allowed: "give an even index",
        }),
    }
}

/// The latest few tensors, number 0 the last.
#[derive(Clone, Debug)]
pub(crate) struct History<B: Backend> {
    latest: VecDeque<Tensor<B, 4>>,
    capacity: usize,
}

impl<B: Backend> History<B> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            latest: VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    pub(crate) fn push(&mut self, tensor: Tensor<B, 4>) {
        self.latest.truncate(self.capacity - 1);
        self.latest.push_front(tensor);
    }

    pub(crate) fn len(&self) -> usize {
        self.latest.len()
    }

    /// `start` plus the latest tensors, each with its weight, the last one's first.
    pub(crate) fn add_weighted(&self, start: Tensor<B, 4>, weights: &[f64]) -> Tensor<B, 4> {
        let terms = self.latest.iter().zip(weights);
        terms.fold(start, |sum, (tensor, weight)| {
            sum + tensor.clone() * *weight
        })
    }
}
