"""For every model, the five lines that make it work: docs/models.md prints them, a test runs them on small networks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """One pretrained model. call: arguments beside the prompt. small: the doctor's pipeline that stands for it in tests."""

    title: str
    name: str
    pipeline: str
    small: str
    call: str = ""
    prompt: str = '"a lighthouse at dusk"'
    rule: str = "emag.EMAG()"
    output: str = "images"
    note: str = ""

    @property
    def lines(self) -> str:
        """The five lines."""
        call = ", ".join(filter(None, (self.prompt, self.call)))
        return "\n".join(("import emag", f'pipe = emag.load("{self.name}")',
                          f"with emag.guide(pipe, {self.rule}) as run:",
                          f"    {self.output} = pipe({call}).{self.output}", "print(run)"))


_LINEAR = "EMAG and PAG need a map, which linear attention does not have; SLG skips a block"

MODELS: tuple[Model, ...] = (
    Model("Stable Diffusion 3 medium", "stabilityai/stable-diffusion-3-medium-diffusers", "StableDiffusion3Pipeline", "sd3",
          "guidance_scale=7.0"),
    Model("Stable Diffusion 3.5 medium", "stabilityai/stable-diffusion-3.5-medium", "StableDiffusion3Pipeline", "sd3.5",
          "guidance_scale=4.5"),
    Model("FLUX.1 dev", "black-forest-labs/FLUX.1-dev", "FluxPipeline", "flux", "guidance_scale=3.5",
          note="guidance-distilled: EMAG pushes on the one prediction there is"),
    Model("FLUX.1 dev, true CFG", "black-forest-labs/FLUX.1-dev", "FluxPipeline", "true-cfg",
          'negative_prompt="", true_cfg_scale=2.0, guidance_scale=1.0', note="two calls a step"),
    Model("FLUX.2 dev", "black-forest-labs/FLUX.2-dev", "Flux2Pipeline", "flux2", "guidance_scale=4.0",
          note="guidance-distilled"),
    Model("FLUX.2 klein base", "black-forest-labs/FLUX.2-klein-base-9B", "Flux2KleinPipeline", "klein",
          "guidance_scale=4.0"),
    Model("Qwen-Image", "Qwen/Qwen-Image", "QwenImagePipeline", "qwen", 'negative_prompt=" ", true_cfg_scale=4.0'),
    Model("Chroma", "lodestones/Chroma1-HD", "ChromaPipeline", "chroma", "guidance_scale=5.0"),
    Model("CogView4", "THUDM/CogView4-6B", "CogView4Pipeline", "cogview4", "guidance_scale=5.0"),
    Model("Lumina-Image 2.0", "Alpha-VLLM/Lumina-Image-2.0", "Lumina2Pipeline", "lumina2", "guidance_scale=4.0"),
    Model("Z-Image Turbo", "Tongyi-MAI/Z-Image-Turbo", "ZImagePipeline", "z-image",
          "num_inference_steps=9, guidance_scale=0.0", note="distilled: EMAG pushes on the one prediction there is"),
    Model("HiDream-I1", "HiDream-ai/HiDream-I1-Full", "HiDreamImagePipeline", "hidream", "guidance_scale=5.0"),
    Model("Krea 2", "krea/Krea-2-Raw", "Krea2Pipeline", "krea2", "guidance_scale=4.5"),
    Model("AuraFlow", "fal/AuraFlow", "AuraFlowPipeline", "auraflow", "guidance_scale=3.5"),
    Model("HunyuanDiT", "Tencent-Hunyuan/HunyuanDiT-Diffusers", "HunyuanDiTPipeline", "hunyuan", "guidance_scale=5.0"),
    Model("PixArt-alpha", "PixArt-alpha/PixArt-XL-2-1024-MS", "PixArtAlphaPipeline", "pixart", "guidance_scale=4.5"),
    Model("PixArt-Sigma", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", "PixArtSigmaPipeline", "sigma", "guidance_scale=4.5"),
    Model("Sana", "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", "SanaPipeline", "sana", "guidance_scale=4.5",
          rule='emag.SLG(1.5)', note=_LINEAR),
    Model("DiT-XL/2", "facebook/DiT-XL-2-256", "DiTPipeline", "dit", "guidance_scale=1.5", prompt="[207, 360]"),
    Model("Stable Diffusion 1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", "StableDiffusionPipeline", "sd",
          "guidance_scale=7.5"),
    Model("Stable Diffusion XL", "stabilityai/stable-diffusion-xl-base-1.0", "StableDiffusionXLPipeline", "sdxl",
          "guidance_scale=5.0"),
    Model("Qwen-Image-Edit", "Qwen/Qwen-Image-Edit", "QwenImageEditPipeline", "qwen-edit",
          'negative_prompt=" ", true_cfg_scale=4.0', prompt='photo, "make it night"', note="`photo` is a PIL image"),
    Model("FLUX.1 Kontext", "black-forest-labs/FLUX.1-Kontext-dev", "FluxKontextPipeline", "kontext",
          "guidance_scale=2.5", prompt='photo, "make it night"', note="`photo` is a PIL image; guidance-distilled"),
    Model("Wan 2.1", "Wan-AI/Wan2.1-T2V-14B-Diffusers", "WanPipeline", "wan", "guidance_scale=5.0", output="frames"),
    Model("Wan 2.2", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", "WanPipeline", "wan-experts", "guidance_scale=4.0",
          output="frames", note="two experts: EMAG's average starts afresh where the second takes over"),
    Model("Wan VACE", "Wan-AI/Wan2.1-VACE-1.3B-diffusers", "WanVACEPipeline", "wan-vace", "guidance_scale=5.0",
          output="frames"),
    Model("LTX-Video", "Lightricks/LTX-Video", "LTXPipeline", "ltx", "guidance_scale=3.0", output="frames"),
    Model("LTX-2", "Lightricks/LTX-2", "LTX2Pipeline", "ltx-2",
          "stg_scale=0.0, audio_stg_scale=0.0, modality_scale=1.0, audio_modality_scale=1.0", output="frames",
          note="its own further branches switched off"),
    Model("CogVideoX", "THUDM/CogVideoX-5b", "CogVideoXPipeline", "cogvideox", "guidance_scale=6.0", output="frames"),
    Model("HunyuanVideo", "hunyuanvideo-community/HunyuanVideo", "HunyuanVideoPipeline", "hunyuan-video",
          "guidance_scale=6.0", output="frames", note="guidance-distilled"),
    Model("HunyuanVideo 1.5", "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v", "HunyuanVideo15Pipeline",
          "hunyuan-video-1.5", output="frames", note="its guidance scale is that of the pipeline's `guider`"),
    Model("Mochi 1", "genmo/mochi-1-preview", "MochiPipeline", "mochi", "guidance_scale=4.5", output="frames"),
)
