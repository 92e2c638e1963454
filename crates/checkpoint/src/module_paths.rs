//! From module fields to checkpoint keys.

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Tensor, backend::Backend},
};

/// The key of the current parameter while a module is walked.
#[derive(Debug, Default)]
pub struct Path(Vec<String>);

impl Path {
    /// Into the field or element `name`.
    pub fn enter(&mut self, name: &str) {
        // Fields cannot be called `0`: `_0` stands for it.
        let digits = name
            .strip_prefix('_')
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        self.0.push(digits.unwrap_or(name).to_owned());
    }

    /// Back out of it.
    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// The checkpoint's name of what is here.
    pub fn key(&self) -> String {
        self.0.join(".")
    }
}

/// Name and shape of every parameter of a module, in order, without initialising any.
pub fn parameters<B: Backend, M: Module<B>>(module: &M) -> Vec<(String, Vec<usize>)> {
    struct List(Path, Vec<(String, Vec<usize>)>);
    impl<B: Backend> ModuleVisitor<B> for List {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.1.push((self.0.key(), param.lazy_shape().to_vec()));
        }
    }
    let mut list = List(Path::default(), Vec::new());
    module.visit(&mut list);
    list.1
}
