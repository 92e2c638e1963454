use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{batch::Shard, refine::RefineArgs, settings::Settings};

/// A picture and a sentence become a video (I2VGen-XL).
#[derive(Parser, Debug)]
#[command(name = "i2vgen", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a video with the embedded toy model; needs no files
    #[command(
        after_help = "Example:\n  i2vgen demo --prompt \"a red circle moves up\" --output up.gif"
    )]
    Demo(DemoArgs),
    /// Make videos with a model folder
    #[command(after_help = GENERATE_HELP)]
    Generate(Box<GenerateArgs>),
    /// Make the videos of a list with the model loaded once
    #[command(after_help = BATCH_HELP)]
    Batch(Box<BatchArgs>),
    /// Make a better video of a video with a second-stage model
    #[command(after_help = REFINE_HELP)]
    Refine(Box<RefineArgs>),
    /// Download a model into the Hugging Face cache and print its folder
    #[command(after_help = "Example:\n  i2vgen pull ali-vilab/i2vgen-xl --variant fp16")]
    Pull(PullArgs),
    /// Show components, parameters, dtypes, sizes and problems of a model folder or a weight file
    #[command(after_help = "Example:\n  i2vgen inspect models/i2vgen-xl --deep")]
    Inspect(InspectArgs),
    /// Compute everything that a video of some size needs once, so that a GPU's kernels are there; --check tests them
    #[command(
        after_help = "Example:\n  i2vgen warmup --model models/i2vgen-xl --device wgpu --height 512 --width 512 --check"
    )]
    Warmup(WarmupArgs),
    /// List what --device can name on this machine
    Devices,
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  i2vgen completions bash > ~/.local/share/bash-completion/completions/i2vgen"
    )]
    Completions(CompletionsArgs),
}

const GENERATE_HELP: &str = "\
Every argument can also come from a file; what is said first counts: the command line, the sidecar of --from, the config
file, the default. Keys of files are the long flags with _ for -, and paths in them are relative to the current folder.

Examples:
  i2vgen generate --model models/i2vgen-xl --image cat.png --prompt \"a cat runs\" --seed 8888 --output cat.gif
  i2vgen generate --from cat.gif.json --output again.gif
  i2vgen generate --continue-from cat.gif.json --output next.gif";

const REFINE_HELP: &str = "\
With MS-Vid2Vid-XL (cargo xtask convert file … --component unet3d) frames become 1280x720 and its own prompts and sampler are
used. Both stages in one command: i2vgen generate … --refine DIR, or --refine self for the first stage's own model.

Examples:
  i2vgen refine --model models/zeroscope --video cat.mp4 --prompt \"a cat runs\" --strength 0.6 --output better.mp4
  i2vgen refine --model refiner --base models/i2vgen-xl --video cat.gif --prompt \"a cat runs\" --output large.mp4";

const BATCH_HELP: &str = "\
A line of the list is a JSON object; its keys are the long flags of 'i2vgen generate' with _ for -:
  {\"image\": \"cat.png\", \"prompt\": \"a cat runs\", \"seed\": 1, \"output\": \"cat.gif\"}
The same flags on the command line count for all lines, and more than what a line says; config file and defaults count less.
Model, variant, device, dtype and threads must be the same for all lines. Paths are relative to the current folder.

A job whose output and sidecar are there is not done again; delete them to make it anew. A failed job is reported and the
rest goes on: the exit status is 0 only if all are done, else 1.

Examples:
  i2vgen batch jobs.jsonl --model models/i2vgen-xl --output-dir videos
  i2vgen batch jobs.jsonl --shard $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT     (with sbatch --array=1-8)
  i2vgen batch jobs.jsonl --shard $((JOB_COMPLETION_INDEX + 1))/8                  (in a Kubernetes indexed job)";

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A model folder, a component folder, or a weight file (.pth .pt .ckpt .bin .safetensors)
    pub(crate) path: PathBuf,
    /// Read all values and look for infinities and NaN
    #[arg(long)]
    pub(crate) deep: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// A picture; by default a red circle
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// What happens, like "a red circle moves left"
    #[arg(long, value_name = "TEXT", default_value = i2vgen_demo_model::PROMPT)]
    pub(crate) prompt: String,
    /// Denoising steps
    #[arg(long, default_value_t = 25)]
    pub(crate) num_inference_steps: usize,
    /// Weight of the prompt
    #[arg(long, default_value_t = 2.5, allow_negative_numbers = true)]
    pub(crate) guidance_scale: f64,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// `self`: run the model once more over its video
    #[arg(long, value_name = "self")]
    pub(crate) refine: Option<PathBuf>,
    /// How much of it is made anew, above 0 and at most 1 [default: 0.4]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) refine_strength: Option<f64>,
    /// cpu, cuda, cuda:N, wgpu or wgpu:N; 'i2vgen devices' lists them
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Print nothing but errors
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Where to write: .mp4, .webp, .gif, .png (animated), .safetensors, .npy, or a folder of PNGs
    #[arg(long, value_name = "PATH", default_value = "demo.gif")]
    pub(crate) output: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Repeat the run that a video's sidecar (OUTPUT.json) tells of; it gives the same video
    #[arg(long, value_name = "SIDECAR")]
    pub(crate) from: Option<PathBuf>,
    /// Print the memory and the work that the run needs, and do nothing; needs no image, prompt and output
    #[arg(long)]
    pub(crate) estimate: bool,
    /// Defaults in TOML; by default i2vgen/config.toml in $XDG_CONFIG_HOME or ~/.config, if there is one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BatchArgs {
    /// A list of jobs, one JSON object a line
    #[arg(value_name = "JOBS.jsonl")]
    pub(crate) jobs: PathBuf,
    /// Do only part I of N of the list, I from 1
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<Shard>,
    /// Where relative outputs go; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
    /// Load weights stage by stage for each job again: slower, less memory
    #[arg(long, conflicts_with = "keep_resident")]
    pub(crate) no_keep_resident: bool,
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Defaults in TOML; by default i2vgen/config.toml in $XDG_CONFIG_HOME or ~/.config, if there is one
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// Its name on the Hub
    #[arg(value_name = "OWNER/NAME")]
    pub(crate) model: String,
    /// Variant of the weights, like fp16; components that lack it come as they are
    #[arg(long)]
    pub(crate) variant: Option<String>,
    /// Branch, tag or commit [default: main]
    #[arg(long)]
    pub(crate) revision: Option<String>,
    /// Only look whether the cache has it
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print nothing but the folder and errors
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WarmupArgs {
    /// A diffusers model folder, or `embedded`: the toy model of `i2vgen demo`
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Variant of the weights, like fp16; by default whichever is there
    #[arg(long)]
    pub(crate) variant: Option<String>,
    /// cpu, cuda, cuda:N, wgpu or wgpu:N; 'i2vgen devices' lists them
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Pixels
    #[arg(long, value_name = "N", default_value_t = 704)]
    pub(crate) height: usize,
    /// Pixels
    #[arg(long, value_name = "N", default_value_t = 1280)]
    pub(crate) width: usize,
    /// Frames of a video
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) num_frames: usize,
    /// Test every shape of convolution, linear layer and attention against a sample computed in f64, in f32 and f16; one
    /// line for each that is wrong, and exit status 1
    #[arg(long)]
    pub(crate) check: bool,
    /// Print nothing but what is wrong
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// Whose
    pub(crate) shell: Shell,
}
