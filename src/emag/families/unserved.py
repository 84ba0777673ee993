"""Classes of diffusers that no family has, and why: what each would need, or that there is nothing in it to guide.

What stands here is refused with the same words; a test holds that every class of diffusers is in a family or here.
"""

NEEDS: dict[str, tuple[str, ...]] = {
    "needs noise levels of EDM, or of a trigonometric flow: known are variance preserving schedules and straight flows": (
        "UNet1DModel", "DanceDiffusionPipeline", "StableDiffusionLatentUpscalePipeline", "ConsistencyModelPipeline",
        "ScoreSdeVePipeline", "KarrasVePipeline"),
    "needs tokens of the frames before apart: they stand in front of those in the making, or in a cache": (
        "HunyuanVideoFramepackTransformer3DModel", "HunyuanVideoFramepackPipeline", "HeliosTransformer3DModel",
        "HeliosPipeline", "HeliosPyramidPipeline", "AnyFlowFARTransformer3DModel", "AnyFlowFARPipeline"),
    "needs a path of noise levels for each frame, or several calls of the network for one step (windows, tiles)": (
        "LTXI2VLongMultiPromptPipeline", "SkyReelsV2DiffusionForcingPipeline",
        "SkyReelsV2DiffusionForcingImageToVideoPipeline", "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        "LTX2DFRPipeline", "LTX2DFRTemporalRefinePipeline"),
    "needs images of different sizes in one sequence": (
        "VisualClozeGenerationPipeline", "VisualClozePipeline", "ZImageOmniPipeline", "JoyImageEditPlusTransformer3DModel",
        "JoyImageEditPlusPipeline"),
    "needs its network and its ControlNet to be one: its blocks run through those of the other": (
        "UNetControlNetXSModel", "StableDiffusionControlNetXSPipeline", "StableDiffusionXLControlNetXSPipeline"),
    "has a loop of its own, which changes x_t or the condition between calls, or makes several calls for one step": (
        "LEditsPPPipelineStableDiffusion", "LEditsPPPipelineStableDiffusionXL", "SemanticStableDiffusionPipeline",
        "StableDiffusionAttendAndExcitePipeline", "StableDiffusionDiffEditPipeline", "StableDiffusionPipelineSafe",
        "StableDiffusionSAGPipeline", "StableDiffusionPix2PixZeroPipeline", "StableDiffusionModelEditingPipeline",
        "StableDiffusionPanoramaPipeline", "StableDiffusionParadigmsPipeline", "CycleDiffusionPipeline",
        "TextToVideoZeroPipeline", "TextToVideoZeroSDXLPipeline", "RePaintPipeline"),
    "needs x_t to be numbers: it predicts words of a codebook": (
        "UVit2DModel", "Transformer2DModel", "VQDiffusionPipeline", "DiffusionGemmaPipeline",
        "MiniMaxMusic3RVQDepthDecoder"),
    "makes tokens, which emag.tokens.filled guides": (
        "AmusedPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline", "LLaDA2Pipeline"),
    "is kept by diffusers for old code alone": (
        "AltDiffusionPipeline", "AltDiffusionImg2ImgPipeline", "AudioLDMPipeline", "BlipDiffusionPipeline",
        "BlipDiffusionControlNetPipeline", "MusicLDMPipeline", "PaintByExamplePipeline", "StableDiffusionGLIGENPipeline",
        "StableDiffusionGLIGENTextImagePipeline", "StableDiffusionInpaintPipelineLegacy", "StableDiffusionLDM3DPipeline",
        "VersatileDiffusionPipeline", "VersatileDiffusionDualGuidedPipeline", "VersatileDiffusionImageVariationPipeline",
        "VersatileDiffusionTextToImagePipeline", "WuerstchenCombinedPipeline", "WuerstchenDecoderPipeline"),
    "needs a package that we do not test with (note_seq, librosa)": (
        "AudioDiffusionPipeline", "T5FilmDecoder", "SpectrogramDiffusionPipeline"),
    "needs a network of torch: it runs in ONNX": (
        "OnnxStableDiffusionImg2ImgPipeline", "OnnxStableDiffusionInpaintPipeline",
        "OnnxStableDiffusionInpaintPipelineLegacy", "OnnxStableDiffusionPipeline", "OnnxStableDiffusionUpscalePipeline",
        "StableDiffusionOnnxPipeline"),
    "needs x_t apart from a picture that stands beside it, in its pixels or as a further item": (
        "JoyImageEditTransformer3DModel", "JoyImageEditPipeline", "DreamLiteUNetModel", "DreamLitePipeline",
        "DreamLiteMobilePipeline"),
    "needs a sequence that begins with padding for a text, and another network without it": (
        "Ideogram4Transformer2DModel", "Ideogram4Pipeline"),
    "needs a network that predicts clean pixels: its pipeline makes a velocity of what it has combined": (
        "PRXPixelPipeline",),
    "cannot run in diffusers 0.42.1: its pipeline gives its own encoder an argument that it does not take": (
        "EasyAnimateControlPipeline",),
    "needs a modular pipeline, one built from blocks: diffusers has no other that drives it": (
        "Flux3Transformer2DModel", "MiniMaxH3Transformer3DModel", "MiniMaxMusic3Transformer1DModel",
        "WanAnimate2Transformer3DModel"),
    "needs an attention that is sparse by blocks, in tiles of a video, each a run of its own": (
        "Kandinsky6SRTransformer3DModel", "Kandinsky6SRPipeline"),
    "needs noise levels of EDM around a network that predicts -v: known are those of v and of straight flows": (
        "CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline"),
    "needs a picture, its text and what an encoder sees of it in one x_t, each with a time of its own": (
        "UniDiffuserModel", "UniDiffuserPipeline"),
    "needs the path of a camera, in arguments that its forward does not name": (
        "SanaWMTransformer3DModel", "SanaWMPipeline", "SanaWMLTX2RefinerTransformer3DModel", "SanaWMLTX2Refiner"),
}
"""What would be needed, and the classes that need it."""

NOTHING: dict[str, tuple[str, ...]] = {
    "estimates a property of a picture, and makes none": (
        "MarigoldDepthPipeline", "MarigoldIntrinsicsPipeline", "MarigoldNormalsPipeline"),
    "predicts what an encoder would say of a picture, and no picture": (
        "PriorTransformer", "KandinskyPriorPipeline", "KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline",
        "StableCascadePriorPipeline", "WuerstchenPriorPipeline"),
    "makes things in space, or molecules, and no picture, video or sound": (
        "ShapEPipeline", "ShapEImg2ImgPipeline", "RFD4ProteinaTransformer", "RFD4ProteinaPipeline"),
    "encodes pictures for another pipeline": ("FluxPriorReduxPipeline", "ReduxImageEncoder"),
    "enlarges or decodes latents without a prompt": (
        "LTXLatentUpsamplePipeline", "LTX2LatentUpsamplePipeline", "LTX2VideoDiffusionDecodePipeline",
        "Kandinsky6SRLatentUpscalerBank"),
    "is a part of other networks": (
        "MotionAdapter", "TransformerTemporalModel", "T2IAdapter", "MultiAdapter", "AceStepAudioTokenDetokenizer",
        "AceStepAudioTokenizer", "AceStepConditionEncoder", "AnimaTextConditioner", "AudioLDM2ProjectionModel",
        "DreamLiteTransformer2DModel",
        "CLIPImageProjection", "Ideogram4PromptEnhancerHead", "MiniMaxMusic3ConditionEncoder",
        "StableAudio3DurationEmbedder", "StableAudioProjectionModel", "UniDiffuserTextDecoder", "ModelMixin"),
}
"""Why there is nothing to guide, and where that is so; encoders and ControlNets are told by the place of their class."""


def reason(name: str) -> str | None:
    """Why the class `name` is in no family; None where that is not known."""
    return next((why for why, names in (*NEEDS.items(), *NOTHING.items()) if name in names), None)
