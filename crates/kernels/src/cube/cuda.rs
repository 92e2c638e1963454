//! Kernels that are written in CUDA, because CubeCL does not know what they need: products of groups of four warps from shared
//! memory (`wgmma`), without which the matrix units of an H100 reach little more than half of their speed. CubeCL compiles,
//! keeps and launches them as any other.

use std::{fmt, hash::Hash};

use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, cubecl, tensor::CubeTensor};
use cubecl::{
    CompilationError, Compiler, CubeTask,
    features::Tma,
    ir::{AddressType, StorageType},
    prelude::*,
    server::{KernelArguments, MetadataBindingInfo},
};

/// Whether a device is of compute capability 9.0: others do not have `wgmma`.
pub(super) fn has_warpgroups<R: CubeRuntime>(client: &ComputeClient<R>) -> bool {
    let tma = &client.properties().features.tma;
    tma.contains(Tma::Base) && !tma.contains(Tma::Im2colWide)
}

/// What a kernel is compiled for; its blocks have 32 by 8 threads.
pub(super) trait InCuda:
    Copy + fmt::Debug + Eq + Hash + Send + Sync + Sized + 'static
{
    /// Of the function.
    const NAME: &str;

    /// Bytes of dynamic shared memory.
    fn shared_memory(&self) -> usize;

    /// The whole source. The function's arguments are the tensors that [`launch`] is given, and the numbers as a structure.
    fn source(&self) -> String;
}

/// Launches a kernel.
///
/// # Safety
/// It neither reads nor writes beyond the tensors.
pub(super) unsafe fn launch<R: CubeRuntime, K: InCuda>(
    kernel: K,
    cubes: CubeCount,
    tensors: impl IntoIterator<Item = CubeTensor<R>>,
    numbers: impl IntoIterator<Item = usize>,
    client: &ComputeClient<R>,
) {
    let numbers: Vec<u64> = numbers.into_iter().map(|number| number as u64).collect();
    let mut arguments = KernelArguments::new();
    arguments.buffers = tensors.into_iter().map(|x| x.handle.binding()).collect();
    let count = numbers.len();
    arguments.info = MetadataBindingInfo::new(numbers, count);
    // SAFETY: by the caller.
    unsafe { client.launch_unchecked(Box::new(Task(kernel)), cubes, arguments) };
}

/// Lines that name the types `T`, and `P` if it is given.
pub(super) fn types(value: DType, other: Option<DType>) -> String {
    let name = |dtype| match dtype {
        DType::F16 => "__half",
        DType::BF16 => "__nv_bfloat16",
        _ => "float",
    };
    let mut lines = String::from("#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n");
    lines += &define("T", name(value));
    if let Some(other) = other {
        lines += &define("P", name(other));
    }
    lines
}

/// A line that gives a name to a value.
pub(super) fn define(name: &str, value: impl fmt::Display) -> String {
    format!("#define {name} {value}\n")
}

/// Where the left operand of a [`product`] is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Shared,
    Registers,
}

/// A function `name<ADDS>(sums, a, b)`: `sums = a · b`, added to what they are if `ADDS` is 1. `a` has 64 by 16 values for the
/// warp group, `b` 16 by `columns` and is described as lying row by row (of its columns, if not `transposed`). It only asks
/// for the product (`wgmma.mma_async`, PTX ISA 9.7.15).
pub(super) fn product(
    name: &str,
    columns: usize,
    dtype: DType,
    left: Left,
    transposed: bool,
) -> String {
    let value = match dtype {
        DType::BF16 => "bf16",
        _ => "f16",
    };
    let count = columns / 2;
    let list = |range: std::ops::Range<usize>, item: &dyn Fn(usize) -> String| {
        let items: Vec<_> = range.map(item).collect();
        items.join(", ")
    };
    let register = |i: usize| format!("%{i}");
    let (argument, operands, given, signs) = match left {
        Left::Shared => ("unsigned long long a", 1, "\"l\"(a)".to_owned(), "0, "),
        Left::Registers => (
            "const unsigned *a",
            4,
            list(0..4, &|i| format!("\"r\"(a[{i}])")),
            "",
        ),
    };
    let a = match left {
        Left::Shared => register(count),
        Left::Registers => format!("{{{}}}", list(count..count + 4, &register)),
    };
    format!(
        r#"template <int ADDS> __device__ __forceinline__ void {name}(float (&sums)[{count}], {argument}, unsigned long long b) {{
    asm volatile("{{.reg .pred p; setp.ne.b32 p, %{adds}, 0; wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{value}.{value} {{{sums}}}, {a}, %{b}, p, 1, 1, {signs}{transposed};}}"
        : {results} : {given}, "l"(b), "n"(ADDS));
}}
"#,
        b = count + operands,
        adds = count + operands + 1,
        sums = list(0..count, &register),
        results = list(0..count, &|i| format!("\"+f\"(sums[{i}])")),
        transposed = transposed as u8,
    )
}

struct Task<K>(K);

fn cube_dim() -> CubeDim {
    CubeDim::new_2d(32, 8)
}

impl<K: InCuda> KernelMetadata for Task<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn id(&self) -> KernelId {
        KernelId::new::<Self>().info(self.0).cube_dim(cube_dim())
    }

    fn address_type(&self) -> StorageType {
        AddressType::U32.unsigned_type()
    }
}

/// What CubeCL has to know: how large a block is, and how much shared memory it takes.
impl<K: InCuda> CubeKernel for Task<K> {
    fn define(&self) -> KernelDefinition {
        let mut builder = KernelBuilder::default();
        AddressType::U32.register(&mut builder.scope);
        takes::expand(&mut builder.scope, self.0.shared_memory());
        let settings = KernelSettings::default()
            .cube_dim(cube_dim())
            .kernel_name(K::NAME);
        builder.build(settings)
    }
}

#[cube]
fn takes(#[comptime] bytes: usize) {
    let mut memory = SharedMemory::<u32>::new(comptime!(bytes / 4));
    memory[0] = 0;
}

impl<K: InCuda, C: Compiler> CubeTask<C> for Task<K> {
    fn compile(
        &self,
        compiler: &mut C,
        options: &C::CompilationOptions,
        mode: ExecutionMode,
        address_type: StorageType,
    ) -> Result<CompiledKernel<C>, CompilationError> {
        let task = KernelTask::<C, Self>::new(Self(self.0));
        let mut kernel = task.compile(compiler, options, mode, address_type)?;
        kernel.source = self.0.source();
        Ok(kernel)
    }
}
